"""What a model of 135 million parameters can take over: narrow tasks, each distilled and measured (`python -m examples.narrow_tasks.study`)."""
