"""Runs the suite's cases against a server of its own and judges what it found. Exit code 0: all is as committed.

`wstest` itself exits with 0 whatever it found, and also if it found no server: only its reports count.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from autobahn import results
from server import Stentor

AGENT = "Stentor"
# The suite's largest messages. Everything else is as an operator gets it.
FLAGS = ["--max-message-bytes", "16MiB"]
# Groups 12 and 13 are about compression. All others are run, so a group that the suite gets anew is noticed.
EXCLUDED = ["12.*", "13.*"]
# It takes a quarter of a minute.
PATIENCE_S = 300


class Broken(Exception):
    """The suite did not run as it should: nothing is known of the server."""


def main():
    arguments = parse_arguments()
    began = time.monotonic()
    try:
        got = run_suite(arguments.wstest.absolute(), arguments.reports.absolute())
    except Broken as why:
        print(f"Autobahn: {why}", file=sys.stderr)
        return 2
    if arguments.update:
        results.write(got)
        print(f"wrote {results.EXPECTED}")
    different = results.compare(results.read(), got)
    # Not part of the comparison: an update must not make these good.
    bad = results.not_permitted(got)
    report(different, bad, arguments.reports)
    counts = Counter(results.describe(result) for result in got.values())
    found = ", ".join(f"{count} {words}" for words, count in counts.most_common())
    seconds = time.monotonic() - began
    print(f"Autobahn: {len(got)} cases in {seconds:.0f} s: {found}; {len(different)} differ, {len(bad)} not permitted")
    return 1 if bad or different else 0


def parse_arguments():
    parser = argparse.ArgumentParser(prog="python -m autobahn", description="Autobahn|Testsuite against /echo")
    parser.add_argument("--wstest", type=Path, required=True, help="the suite's program")
    parser.add_argument("--reports", type=Path, required=True, help="directory for its reports; what is there is removed")
    parser.add_argument("--update", action="store_true", help=f"write what was found to {results.EXPECTED.name}")
    return parser.parse_args()


def run_suite(wstest, reports):
    """The suite's results against a fresh server."""
    # What is left of an earlier run must not pass for this one.
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    server = Stentor(*FLAGS)
    try:
        fuzz(wstest, reports, f"ws://{server.host}/echo")
    except BaseException:
        server.process.kill()
        raise
    # It must have survived the suite, and end well.
    server.stop()
    try:
        return results.from_index(json.loads((reports / "index.json").read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise Broken(f"no results in {reports / 'index.json'}: {error!r}; see {reports / 'wstest.log'}") from error


def fuzz(wstest, reports, url):
    specification = {
        "outdir": str(reports),
        "servers": [{"agent": AGENT, "url": url}],
        "cases": ["*"],
        "exclude-cases": EXCLUDED,
        "exclude-agent-cases": {},
    }
    specification_path, log_path = reports / "specification.json", reports / "wstest.log"
    specification_path.write_text(json.dumps(specification, indent=2))
    command = [str(wstest), "--mode", "fuzzingclient", "--spec", str(specification_path)]
    with log_path.open("w") as log:
        suite = subprocess.Popen(
            command, cwd=reports, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = suite.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            ran = log_path.read_text(errors="replace").count("Running test case")
            raise Broken(f"not done in {PATIENCE_S} s, in its case number {ran}; see {log_path}") from None
        finally:
            if suite.poll() is None:
                os.killpg(suite.pid, signal.SIGKILL)
                suite.wait()
    if code != 0:
        raise Broken(f"wstest ended with {code}; see {log_path}")


def report(different, bad, reports):
    """Lists the findings, with what the suite says about each of their cases."""
    findings = {finding.case: finding for finding in bad + different}
    never = {finding.case for finding in bad}
    for case, finding in sorted(findings.items(), key=lambda item: results.in_order(item[0])):
        print(f"{finding}{' (never permitted, whatever is expected)' if case in never else ''}")
        path = reports / f"{AGENT.lower()}_case_{case.replace('.', '_')}.json"
        if path.exists():
            told = json.loads(path.read_text())
            print(f"    case: {' '.join(told['description'].split())}")
            print(f"    result: {told['result']} {told['resultClose']}")
            print(f"    report: {path.with_suffix('.html')}")
    if different:
        print(f"If what differs is right, --update rewrites {results.EXPECTED.name}.")


if __name__ == "__main__":
    sys.exit(main())
