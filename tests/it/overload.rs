//! More payments than the mesh can do: the benchmark of it, for seconds, and what it says.

use harness::mesh::run;
use serde_json::Value;

use crate::program;

#[test]
fn what_cannot_be_finished_soon_is_refused_and_what_is_taken_in_ends() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let report = folder.path().to_string_lossy().into_owned();
        let printed = tokio::task::spawn_blocking(move || {
            let load =
                "--for 1s --times 3 --peak-for 1s --peak-at-once 64 --calm-for 1s --at-once 64";
            let args = ["bench", "overload", "--json", "--report", &report];
            let args: Vec<&str> = args.into_iter().chain(load.split(' ')).collect();
            // Whether so short a run holds on a busy machine says nothing; what it has seen does.
            program::output(&args, Vec::new()).1
        });
        let printed = printed.await.expect("it runs");
        let report: Value = serde_json::from_str(&printed).expect("a report");
        let phases = report["phases"].as_array().expect("phases");
        let over = phases.iter().find(|phase| phase["phase"] == "overload").expect("an overload");
        let number = |value: &Value| value.as_f64().expect("a number");
        assert_eq!(report["strange"], serde_json::json!({}), "{report:#}");
        assert!(number(&over["refused_per_s"]) > 0.0, "{report:#}");
        assert!(number(&over["goodput_per_s"]) > 0.0, "{report:#}");
        assert!(number(&report["goodput_ratio"]) > 0.2, "{report:#}");
        assert!(number(&report["checked"]) > 0.0, "{report:#}");
        let is_about_databases = |wrong: &&Value| {
            wrong.as_str().is_some_and(|wrong| {
                !["goodput", "slowest", "longer", "memory", "recover"]
                    .iter()
                    .any(|word| wrong.contains(word))
            })
        };
        let wrong = report["wrong"].as_array().expect("a list");
        assert_eq!(wrong.iter().filter(is_about_databases).count(), 0, "{wrong:?}");
        let picture = std::fs::read_to_string(folder.path().join("overload.svg"));
        assert!(picture.expect("a picture").contains("completed"));
    });
}
