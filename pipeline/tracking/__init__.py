"""MLflow: runs, metrics, pictures and the registry. The only room that imports mlflow."""
