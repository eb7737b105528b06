"""A simulator of engines, its calibration, and its predictions."""
