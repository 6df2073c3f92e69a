"""The HTTP service: a clip or an image comes in, a row goes out. docs/service.md describes it for its users."""
