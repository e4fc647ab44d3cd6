"""Image classifiers in Hugging Face's kind of folder (a config.json, weights beside it), of transformers or of timm."""
