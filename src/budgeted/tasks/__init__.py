"""One file a task: model, loss, data, metric, recipe, full budget."""
