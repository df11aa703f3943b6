"""What does an operator see? The dashboard, the JSON API, metrics, and who may use them."""
