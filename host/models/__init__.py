"""The shipped models: data, architecture, training and evaluation."""
