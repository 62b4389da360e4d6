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
    "The edits, in order, with the method's settings. Connect to every node with an edits input."
)
REGIONS_TOOLTIP = "Where each object of the edits is, from Regions."
