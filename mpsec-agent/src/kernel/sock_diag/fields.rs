//! Structures of the kernel that grew over time, read where they lie and by the length that came.

/// A view of a structure's bytes with a method for each field, which is `None` if the structure is too short for it.
///
/// `since` is the length of the first structure that has the field, where that is more than the field's own end: what was
/// padding before must not be taken for a field that is 0.
macro_rules! fields {
    ($(#[$about:meta])* $view:ident { $($(#[$doc:meta])* $field:ident: $type:ty = $offset:literal $(, since $since:literal)?;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $view<'a>(pub &'a [u8]);

        impl $view<'_> {
            $($(#[$doc])*
            #[inline]
            pub fn $field(&self) -> Option<$type> {
                $(if self.0.len() < $since {
                    return None;
                })?
                Some(<$type>::from_ne_bytes(*self.0.get($offset..)?.first_chunk()?))
            })*

            /// Hands the name and value of each field that is there to `take`, in the kernel's order.
            pub fn each(&self, mut take: impl FnMut(&'static str, u64)) {
                $(if let Some(value) = self.$field() {
                    take(stringify!($field), u64::from(value));
                })*
            }
        }

        impl std::fmt::Debug for $view<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut view = f.debug_struct(stringify!($view));
                self.each(|name, value| {
                    view.field(name, &value);
                });
                view.finish()
            }
        }
    };
}
pub(super) use fields;
