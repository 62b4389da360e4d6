"""Pictures made of screenshots: cards of the template browser, and images of the documentation.

Imported by tests as `ale_edit.tests.browser.thumbnails`.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE, PICTURE, MARGIN, HEAD = 600, 286, 9, 36
DARK, LIGHT = (24, 24, 24), (235, 235, 235)
# The two nodes whose pictures stand on a workflow's card, left and right.
SHOWN = {
    "ale_edit": ("Source image", "Save edited"),
    "ale_edit_drawn_masks": ("Where the objects are", "Edited image"),
    "ale_edit_lcm_lora": ("Regions", "Edited image"),
    "ale_edit_words_demo": ("Where the objects are", "Edited image"),
    "ale_edit_one_node": ("Source", "Edited image"),
    "background_blending": ("Source", "Edited image"),
    "change_background": ("Source", "Edited image"),
    "compare": ("All three",),
    "compare_editors": ("All editors",),
    "cpam": ("Source", "Edited image"),
    "diff_edit_mask": ("Regions preview", "Differences"),
    "dpl": ("Source", "Edited image"),
    "diffedit": ("Source", "Edited image"),
    "ledits": ("Source", "Edited image"),
    "demo_detector_loader": ("Regions", "Object masks"),
    "demo_model_loader": ("Generated image",),
    "demo_scene": ("Image", "Masks"),
    "edit_friendly_inversion": ("Source", "Edited image"),
    "edit_list": ("Regions", "Edited image"),
    "edit_object": ("Source", "Edited image"),
    "fpe": ("Source", "Edited image"),
    "full_prompts": ("Regions", "Edited image"),
    "infedit": ("Source", "Edited image"),
    "invert_image": ("Source", "Edited image"),
    "sample_from_inversion": ("Source", "Edited image"),
    "save_inversion": ("Source",),
    "lcm_schedule": ("Generated image",),
    "leakage_score": ("Edited image",),
    "mag_edit": ("Source", "Edited image"),
    "masactrl": ("Source", "Edited image"),
    "p2p": ("Source", "Edited image"),
    "end_token_substitution": ("With substitution", "Without substitution, image"),
    "word_attention_maps": ("Sheet",),
    "method_settings": ("Image, all parts on", "Image, all parts off"),
    "object_restricted_embeddings": ("Image with ORE", "Image with the plain prompt"),
    "paste_background": ("As decoded by the VAE", "With the source's own pixels"),
    "pix2pix_zero": ("Source", "Edited image"),
    "pnp": ("Source", "Edited image"),
    "preservation_score": ("Edited image",),
    "region_cross_attention": ("Image with regions", "Image without"),
    "regions": ("Regions", "Background mask"),
    "remove_object": ("Source", "Edited image"),
    "sdedit": ("Source", "Edited image"),
    "self_attention_injection": ("Source", "Edited image"),
    "two_branch_guider": ("Source", "Edited image"),
    "virtual_inversion": ("Source", "Edited image"),
    "regional_text_to_image": ("Regions", "Generated image"),
}


def card(pictures: list[tuple[str, Image.Image]], graph: Image.Image) -> Image.Image:
    """A square: labelled pictures in a row, the graph below them, or the graph alone."""
    out = Image.new("RGB", (SIDE, SIDE), DARK)
    draw = ImageDraw.Draw(out)
    font = ImageFont.load_default(size=20)
    room = (SIDE - 2 * MARGIN if len(pictures) == 1 else PICTURE, PICTURE)
    fitted = [ImageOps.contain(p, room, Image.Resampling.LANCZOS) for _, p in pictures]
    x = (SIDE - sum(p.width + MARGIN + 1 for p in fitted) + MARGIN + 1) // 2
    for (label, _), picture in zip(pictures, fitted, strict=True):
        draw.text((x, 8), label, font=font, fill=LIGHT)
        out.paste(picture, (x, HEAD))
        x += picture.width + MARGIN + 1
    top = HEAD + PICTURE + MARGIN if pictures else MARGIN
    width, height = SIDE - 2 * MARGIN, SIDE - top - MARGIN
    scale = min(width / graph.width, height / graph.height)
    size = (round(graph.width * scale), round(graph.height * scale))
    place = ((SIDE - size[0]) // 2, top + (height - size[1]) // 2)
    out.paste(graph.resize(size, Image.Resampling.LANCZOS), place)
    return out


def save_card(path: Path, picture: Image.Image) -> None:
    picture.save(path, quality=88, optimize=True)


def save_small(path: Path, picture: Image.Image, width: int = 2000) -> None:
    """A screenshot for the documentation: at most `width` pixels wide, and under 200 kB."""
    if picture.width > width:
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.convert("RGB").save(path, quality=80, subsampling=0, optimize=True)
