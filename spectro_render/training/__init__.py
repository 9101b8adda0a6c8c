"""Training: data, objective and loops. Nothing outside this folder imports it but `cli train`."""
