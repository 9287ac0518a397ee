"""Not shipped: rendering the phantom, training and judging the demo weights."""
