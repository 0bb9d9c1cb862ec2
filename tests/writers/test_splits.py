from gpuprep.writers.splits import draw_order


def test_the_order_is_that_of_the_digests_whatever_draws_it():
    # `printf 0/a | b2sum -l 128` and so on: data sets that grow keep their splits as long as this does.
    assert draw_order("abcdea", 0) == list("ecabd")
    assert draw_order("edcba", 1) == list("bdaec")
