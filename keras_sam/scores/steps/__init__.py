"""Steps: what is done to queries and keys before a score, and to scores after it."""
