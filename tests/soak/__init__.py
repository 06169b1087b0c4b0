"""The service under load while its surroundings break: ``python -m tests.soak``.

Real servers, real processes, faults from a seeded schedule, and every answer judged:

===============  ==========================================================================
module           holds
===============  ==========================================================================
``__main__``     the command line
``run``          one run: what is started, in which order, and how it ends
``contents``     the models that are published, and what a naive oracle says of them
``ledger``       what was published and deleted when, and the judge of answers
``stores``       a primary and a replica: killed, frozen, filled, failed over
``proxy``        a process between service and store that delays, cuts and lies
``server``       the service's process: its clock can jump, its deadlines are measured
``clients``      load: HTTP in JSON and msgpack, gRPC unary and streams
``nasty``        clients that stall, hang up and send garbage
``writers``      publish, roll back, forget
``faults``       the schedule
===============  ==========================================================================
"""
