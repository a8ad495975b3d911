"""Tools that look into a model or plan and say what is in it and what is wrong with it."""
