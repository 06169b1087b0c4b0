"""perslm inside other engines' decoding loops; one module per engine.

``perslm.integrations.transformers`` has the logits processor for Hugging Face ``generate()``.
Global LMs for perslm's own beam search are in ``perslm.global_lm``.
"""
