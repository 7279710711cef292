"""A worker without a model that speaks SGLang's protocol over `sim`."""
