//! The logs of child processes: in files, out of the benchmark's own output.

use std::{fs::File, future::Future, path::PathBuf, process::Stdio};

use anyhow::{Context, Result};

/// The folder of this run.
fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("onsale-bench-{}", std::process::id()))
}

/// The log file of a child process.
pub(super) fn of(name: &str) -> Result<Stdio> {
    let folder = folder();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("{name}.log"));
    let open = File::options().create(true).append(true).open(&file);
    Ok(open.with_context(|| format!("cannot write {}", file.display()))?.into())
}

/// Does the work. When it fails, the error says where the logs are; otherwise they are removed.
pub(super) async fn kept_on_failure<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = work.await;
    let folder = folder();
    match done {
        Err(error) if folder.exists() => {
            Err(error.context(format!("the services' logs are in {}", folder.display())))
        }
        done => {
            let _ = std::fs::remove_dir_all(&folder);
            done
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because there is one folder for the process.
    #[tokio::test]
    async fn logs_are_kept_only_on_failure() {
        let failed: Result<()> = kept_on_failure(async {
            of("services")?;
            anyhow::bail!("broken")
        })
        .await;
        let text = format!("{:#}", failed.unwrap_err());
        assert!(text.contains(&*folder().to_string_lossy()) && text.ends_with("broken"), "{text}");
        assert!(folder().join("services.log").exists());
        kept_on_failure(async { Ok(()) }).await.unwrap();
        assert!(!folder().exists());
    }
}
