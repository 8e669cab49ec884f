"""The night: what is done by a clock, what is told of it, and what is to be looked at in the morning."""
