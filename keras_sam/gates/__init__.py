"""Gates: features, multiplied by weights that are pooled from them."""
