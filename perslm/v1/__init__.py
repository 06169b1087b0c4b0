"""The gRPC interface ``perslm.v1``, for both ends of it.

``scorer.proto`` is its documentation; ``scorer_pb2`` is made of it, by the command that
``tests/unit/test_proto.py`` checks it with.
"""
