"""Pure functions on points, boxes, masks and run lengths."""
