"""A merge method, a metric, an optimizer, a search space and a task for evovlm."""
