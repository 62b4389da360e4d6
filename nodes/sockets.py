"""The pack's own socket types."""

from comfy_api.latest import io

Edits = io.Custom("ALE_EDITS")
Regions = io.Custom("ALE_REGIONS")
Detector = io.Custom("ALE_DETECTOR")
Segmenter = io.Custom("ALE_SEGMENTER")
Inversion = io.Custom("ALE_INVERSION")
Similarity = io.Custom("ALE_SIMILARITY")
Comparison = io.Custom("ALE_COMPARISON")

EDITS_OUTPUT_TOOLTIP = (
    "The edits, in order, with any method settings. Connect them to every node that has an edits "
    "input."
)
REGIONS_TOOLTIP = "Where each edited object is in the image, from Regions or Grounded-SAM Masks."
