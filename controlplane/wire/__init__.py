"""The requests and answers of the REST API, one module per resource."""
