"""The negative control: faults planted into correct computations, each of which the checks must catch.

``cases`` has the networks, ``fault`` what a fault is, ``faults_*`` the faults, ``detection`` which check catches one,
``campaign`` the run over all of them, ``report`` the result.
"""
