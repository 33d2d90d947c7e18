//! Migrations as they are compiled in, and rows by the names of their columns.
//!
//! The macros of `sqlx` would do both, and build every driver and its TLS a second time for the
//! compiler: a fifth of a first build.

use std::sync::LazyLock;

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// The migrations of a service, read at first use.
pub type Migrations = LazyLock<Migrator>;

/// The files of one service's folder below `migrations/`, compiled in; in the order of their
/// numbers.
///
/// ```text
/// pub static MIGRATIONS: Migrations = mesh::migrations!["point/0101_wallets.sql"];
/// ```
#[macro_export]
macro_rules! migrations {
    ($($file:literal),+ $(,)?) => {
        ::std::sync::LazyLock::new(|| {
            $crate::postgres::migrator(&[$((
                $file,
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/", $file)),
            )),+])
        })
    };
}

/// A struct that is read from a row, each field from the column of its name.
#[macro_export]
macro_rules! row {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$of_field:meta])* $field_vis:vis $field:ident: $type:ty,)+
    }) => {
        $(#[$meta])*
        $vis struct $name {
            $($(#[$of_field])* $field_vis $field: $type,)+
        }

        impl<'r> ::sqlx::FromRow<'r, ::sqlx::postgres::PgRow> for $name {
            fn from_row(row: &'r ::sqlx::postgres::PgRow) -> ::sqlx::Result<Self> {
                Ok(Self { $($field: ::sqlx::Row::try_get(row, stringify!($field))?,)+ })
            }
        }
    };
}

/// A migrator of files `<folder>/<version>_<description>.sql` with their texts.
///
/// # Panics
/// When a file has another name.
pub fn migrator(files: &[(&'static str, &'static str)]) -> Migrator {
    let migrations = files.iter().map(|(file, sql)| {
        let named = file
            .rsplit_once('/')
            .and_then(|(_, name)| name.strip_suffix(".sql")?.split_once('_'))
            .and_then(|(version, description)| Some((version.parse().ok()?, description)));
        let (version, description) =
            named.unwrap_or_else(|| panic!("{file} is not named <version>_<description>.sql"));
        let description = description.replace('_', " ").into();
        let sql = SqlStr::from_static(sql);
        Migration::new(version, description, MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}
