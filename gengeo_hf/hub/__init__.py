"""Models and data on the Hugging Face Hub: model cards, export, conversion of published weights, push and pull."""
