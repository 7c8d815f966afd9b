//! `on_reload: adopt`: running streams follow the rules that a reload has brought.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::driver::{Route, RunningStream};
use crate::stream::Policy;
use crate::takeover::Takeover;

/// How long the visit of all streams may take.
const VISIT_LIMIT: Duration = Duration::from_secs(30);

/// Gives the running streams of `routes` their policies; returns how many have got another one. Must be called on a thread for
/// blocking work of a runtime.
pub(super) fn adopt(routes: &[Arc<Route>], takeover: &Takeover) -> usize {
    if routes.is_empty() {
        return 0;
    }
    let Ok(runtime) = Handle::try_current() else {
        log::error!("running streams keep their rules: side=internal: no runtime to visit them from");
        return 0;
    };
    let policies: HashMap<Arc<str>, Arc<Policy>> =
        routes.iter().map(|route| (route.name.clone(), route.policy.clone())).collect();
    let adopted = Arc::new(AtomicUsize::new(0));
    let count = adopted.clone();
    let visitor = move |stream: &mut RunningStream<'_>| {
        let policy = policies.get(stream.route()).filter(|policy| !Arc::ptr_eq(policy, stream.policy()));
        if let Some(policy) = policy {
            stream.set_policy(policy.clone());
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    if !runtime.block_on(takeover.visit(Arc::new(visitor), VISIT_LIMIT)) {
        log::error!(
            "some running streams keep their rules: side=internal: not all were visited within {VISIT_LIMIT:?}"
        );
    }
    adopted.load(Ordering::Relaxed)
}
