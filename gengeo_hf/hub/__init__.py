"""The Hugging Face Hub: model cards, export, conversion of published weights, push and pull."""
