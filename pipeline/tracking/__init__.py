"""MLflow: runs, metrics, artifacts and the model registry. The only package that imports mlflow."""
