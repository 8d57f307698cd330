"""Files: folders and containers of quantized models, read strictly."""
