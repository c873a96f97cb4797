"""One module per group of sections. Each builder takes the data of a report and returns one `Section`."""
