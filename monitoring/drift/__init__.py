"""Has the world moved? Signals of predictions, distributions of features, and alarms. Pure."""
