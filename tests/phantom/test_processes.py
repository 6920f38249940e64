"""Jobs in several processes, each with its phantom kept open."""

import os

from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.processes import mapper, phantom_of


def of(config):
    return config.seed, os.getpid(), phantom_of(config) is phantom_of(config)


def test_results_come_in_order_from_this_process_or_from_others():
    configs = [PhantomConfig(height=64, width=64, seed=k) for k in range(6)]
    for workers in (1, 2):
        with mapper(workers) as run:
            found = list(run(of, configs))
        assert [seed for seed, _, _ in found] == list(range(6)) and all(kept for _, _, kept in found)
        assert (os.getpid() in {pid for _, pid, _ in found}) == (workers == 1)


def test_a_phantom_is_kept_open_for_the_same_configuration_alone():
    one, same, other = (PhantomConfig(height=64, width=64, seed=k) for k in (1, 1, 2))
    assert phantom_of(one) is phantom_of(same) and phantom_of(one) is not phantom_of(other)
