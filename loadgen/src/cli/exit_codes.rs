//! The exit codes, as every help text lists them.

pub(super) const EXIT_CODES: &str = "Exit codes:
  0    the result stands
  1    something failed, or a --fail-if threshold was crossed
  2    the result cannot be trusted; the warnings say why and what would help
  64   the command line is wrong, or the load does not fit the machine
  130  interrupted; what was measured so far was shown";
