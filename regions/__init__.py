"""Pixels -> objects: masks, dilation, background, and their form on a layer's grid."""
