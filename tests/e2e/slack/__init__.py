"""A package, so that its tests share one workspace (`conftest.slack`)."""
