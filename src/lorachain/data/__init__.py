"""Sources (files, directories, hub data sets, the embedded sample) to records; keeps exams out of training data."""
