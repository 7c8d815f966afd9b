//! The allocator's settings, and an arena for buffers that are mostly never written.
//!
//! A page that has never been written takes no memory. The h2 crate gives each connection 28 KiB of buffers, and a
//! silent stream writes into three of their seven pages (`docs/decisions/0006-drive-http2-connections.md`). But memory
//! that was freed just before, such as a request's futures, has resident pages, which would stay resident as long as
//! the connection.

/// Calls `make` with allocations from the separate arena, if the allocator has arenas.
#[cfg(feature = "jemalloc")]
pub(crate) fn on_unused_pages<T>(make: impl FnOnce() -> T) -> T {
    let _guard = jemalloc::ArenaGuard::enter();
    make()
}

/// Calls `make`; this allocator has no arenas.
#[cfg(not(feature = "jemalloc"))]
pub(crate) fn on_unused_pages<T>(make: impl FnOnce() -> T) -> T {
    make()
}

/// Applies the settings that the figures in `docs/benchmarks.md` were measured with
/// (`docs/decisions/0003-jemalloc-in-the-binary.md`). `_RJEM_MALLOC_CONF` in the environment takes precedence.
///
/// Returns whether the settings are in effect.
#[cfg(feature = "jemalloc")]
pub(crate) fn tune_allocator() -> bool {
    std::env::var_os("_RJEM_MALLOC_CONF").is_some() || jemalloc::tune().is_some()
}

/// Does nothing without jemalloc.
#[cfg(not(feature = "jemalloc"))]
pub(crate) fn tune_allocator() -> bool {
    true
}

#[cfg(feature = "jemalloc")]
mod jemalloc {
    use std::ffi::{CStr, CString, c_uint};
    use std::marker::PhantomData;
    use std::ptr::null_mut;
    use std::sync::OnceLock;

    use tikv_jemalloc_sys::mallctl;

    /// How long the freed pages of a connection are kept for the next one. They are few and mostly unwritten; a longer
    /// time would let allocations mix until all pages are written.
    const DECAY_MS: isize = 100;

    /// Unused memory goes back to the system within this time.
    const DIRTY_DECAY_MS: isize = 1000;

    /// Sets the defaults of new arenas, and the settings of the existing ones.
    pub(super) fn tune() -> Option<()> {
        exchange(c"arenas.dirty_decay_ms", DIRTY_DECAY_MS)?;
        exchange(c"arenas.muzzy_decay_ms", 0_isize)?;
        let arenas: c_uint = read(c"arenas.narenas")?;
        for arena in 0..arenas {
            for (kind, decay) in [("dirty", DIRTY_DECAY_MS), ("muzzy", 0)] {
                // Unused arenas do not exist yet, and get the defaults later.
                exchange(&CString::new(format!("arena.{arena}.{kind}_decay_ms")).ok()?, decay);
            }
        }
        // Last, so that the thread starts with these settings.
        exchange(c"background_thread", true).map(drop)
    }

    /// The arena; `None` if it cannot be created.
    static ARENA: OnceLock<Option<c_uint>> = OnceLock::new();

    /// While this guard exists, its thread allocates from the arena.
    pub(super) struct ArenaGuard {
        previous: Option<c_uint>,
        not_send: PhantomData<*const ()>,
    }

    impl ArenaGuard {
        pub(super) fn enter() -> Self {
            let arena = *ARENA.get_or_init(create);
            Self { previous: arena.and_then(|arena| exchange(c"thread.arena", arena)), not_send: PhantomData }
        }
    }

    impl Drop for ArenaGuard {
        fn drop(&mut self) {
            if let Some(previous) = self.previous {
                exchange(c"thread.arena", previous);
            }
        }
    }

    fn create() -> Option<c_uint> {
        let arena: c_uint = read(c"arenas.create")?;
        let decay = CString::new(format!("arena.{arena}.dirty_decay_ms")).ok()?;
        exchange(&decay, DECAY_MS)?;
        Some(arena)
    }

    /// Reads a setting. `T` has to be the type that jemalloc's manual gives it.
    fn read<T: Default>(name: &CStr) -> Option<T> {
        let mut value = T::default();
        let mut size = size_of::<T>();
        // SAFETY: the pointers are to live values of the sizes given; jemalloc refuses sizes other than the setting's.
        let failed = unsafe { mallctl(name.as_ptr(), (&raw mut value).cast(), &raw mut size, null_mut(), 0) };
        (failed == 0).then_some(value)
    }

    /// Changes a setting and returns what it was. `T` has to be the type that jemalloc's manual gives it.
    fn exchange<T: Default>(name: &CStr, mut new: T) -> Option<T> {
        let mut old = T::default();
        let mut size = size_of::<T>();
        // SAFETY: as above; neither setting moves or frees anything that is in use.
        let failed = unsafe {
            mallctl(name.as_ptr(), (&raw mut old).cast(), &raw mut size, (&raw mut new).cast(), size_of::<T>())
        };
        (failed == 0).then_some(old)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_thread_uses_the_arena_only_while_the_guard_exists() {
            let previous: Option<c_uint> = read(c"thread.arena");
            let guard = ArenaGuard::enter();
            let inside = read(c"thread.arena");
            assert!(inside.is_some() && inside != previous);
            assert_eq!(Some(&inside), ARENA.get());
            drop(guard);
            assert_eq!(read(c"thread.arena"), previous);
        }

        #[test]
        fn the_settings_apply_to_existing_and_new_arenas() {
            tune().expect("jemalloc takes the settings");
            assert_eq!(read::<bool>(c"background_thread"), Some(true));
            assert_eq!(read::<isize>(c"arenas.dirty_decay_ms"), Some(DIRTY_DECAY_MS));
            assert_eq!(read::<isize>(c"arena.0.dirty_decay_ms"), Some(DIRTY_DECAY_MS));
            assert_eq!(read::<isize>(c"arena.0.muzzy_decay_ms"), Some(0));
            let new: c_uint = read(c"arenas.create").expect("an arena");
            let name = CString::new(format!("arena.{new}.dirty_decay_ms")).expect("a name");
            assert_eq!(read::<isize>(&name), Some(DIRTY_DECAY_MS));
        }

        #[test]
        fn unknown_settings_are_refused() {
            assert_eq!(read::<c_uint>(c"no.such.setting"), None);
            assert_eq!(exchange::<u8>(c"thread.arena", 0), None, "another size");
        }
    }
}
