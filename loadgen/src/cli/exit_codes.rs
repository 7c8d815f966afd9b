//! The exit codes, as every help text lists them.

pub(super) const EXIT_CODES: &str = "Exit codes:
  0    success
  1    something failed, or a --fail-if threshold was crossed
  2    the result cannot be trusted; the warnings name cause and remedy
  64   invalid command line, or the load does not fit the machine
  130  interrupted; prints what was measured so far";
