"""The judgement on the conformance suite's results: it breaks where it must, and the committed results are good."""

import pytest

from autobahn import results

OK = {"behavior": "OK", "behaviorClose": "OK"}
BAD_WORDS = ["FAILED", "NON-STRICT", "UNIMPLEMENTED", "UNCLEAN", "WRONG CODE", "FAILED BY CLIENT", "a new word"]


def changed(case, **words):
    return {**results.read(), case: {**OK, **words}}


def test_the_committed_results_are_those_of_all_cases():
    committed = results.read()
    assert len(committed) == results.CASES
    groups = {results.in_order(case)[0] for case in committed}
    assert groups == {1, 2, 3, 4, 5, 6, 7, 9, 10}


def test_the_committed_results_are_permitted():
    assert results.not_permitted(results.read()) == []


def test_equal_results_differ_in_nothing():
    assert results.compare(results.read(), results.read()) == []


@pytest.mark.parametrize("word", ["FAILED", "NON-STRICT", "INFORMATIONAL"])
@pytest.mark.parametrize("key", results.KEYS)
def test_another_word_is_found(key, word):
    (finding,) = results.compare(results.read(), changed("9.1.6", **{key: word}))
    assert (finding.case, finding.expected) == ("9.1.6", "OK")
    assert word in finding.got


def test_a_missing_case_is_found():
    got = results.read()
    del got["5.19"]
    (finding,) = results.compare(results.read(), got)
    assert str(finding) == "5.19: expected OK, got no result"


def test_a_case_more_is_found():
    (finding,) = results.compare(results.read(), changed("11.1.1"))
    assert str(finding) == "11.1.1: expected no such case, got OK"


def test_no_results_are_as_many_findings_as_cases():
    assert len(results.compare(results.read(), {})) == results.CASES


def test_a_better_result_is_found_too():
    assert [finding.case for finding in results.compare(results.read(), changed("7.1.6"))] == ["7.1.6"]


@pytest.mark.parametrize("word", BAD_WORDS)
@pytest.mark.parametrize("key", results.KEYS)
def test_no_update_makes_a_bad_word_good(tmp_path, key, word):
    updated = tmp_path / "updated.json"
    results.write(changed("6.4.1", **{key: word}), updated)
    got = results.read(updated)
    assert results.compare(got, changed("6.4.1", **{key: word})) == []
    assert [finding.case for finding in results.not_permitted(got)] == ["6.4.1"]


def test_what_is_written_is_read_and_in_order(tmp_path):
    path = tmp_path / "written.json"
    results.write(dict(reversed(results.read().items())), path)
    assert path.read_text() == results.EXPECTED.read_text()
    cases = list(results.read(path))
    assert cases.index("2.9") < cases.index("2.10")


def test_an_index_of_the_suite():
    entry = {"behavior": "OK", "behaviorClose": "UNCLEAN", "duration": 2, "remoteCloseCode": 1000, "reportfile": "x.json"}
    got = results.from_index({"Stentor": {"1.1.1": entry}})
    assert got == {"1.1.1": {"behavior": "OK", "behaviorClose": "UNCLEAN"}}
    assert results.describe(got["1.1.1"]) == "OK, close: UNCLEAN"
    with pytest.raises(ValueError):
        results.from_index({})
