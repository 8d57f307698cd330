"""Layouts: QTensor ↔ the tensors of a file format, one small class each."""
