"""Our own inspected parts: height fields under a light, with defects written into height and color."""
