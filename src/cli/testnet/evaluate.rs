//! Asks the mesh about the held-out records, and counts what it gets right.
//!
//! The questions go through one node's control API and are answered by others: nothing is computed here.

use serde_json::Value;

use super::{mesh::Mesh, process::NodeProcess, view::View};
use crate::{
    api::{Infer, JobDetail, ShardGet},
    cli::Error,
    submit::Evaluation,
    types::ContentId,
};

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answers {
    asker: String,
    /// Peer, right or wrong, milliseconds.
    answered: Vec<(String, bool, f64)>,
    /// Questions without an answer.
    pub(super) failed: usize,
    /// Why the last of them had none.
    pub(super) reason: Option<String>,
}

impl Answers {
    /// The part that was right; `None` if nothing was asked.
    #[expect(clippy::cast_precision_loss, reason = "a data set has fewer than 2⁵³ records")]
    pub(super) fn accuracy(&self) -> Option<f64> {
        let asked = self.answered.len() + self.failed;
        let right = self.answered.iter().filter(|(_, right, _)| *right).count();
        (asked > 0).then(|| right as f64 / asked as f64)
    }

    /// The latency in milliseconds that the fraction `part` of the answers stayed within (nearest rank).
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a vector"
    )]
    pub(super) fn latency(&self, part: f64) -> Option<f64> {
        let mut latencies: Vec<f64> = self.answered.iter().map(|(_, _, latency)| *latency).collect();
        latencies.sort_by(f64::total_cmp);
        let rank = (latencies.len() as f64 * part).ceil() as usize;
        latencies.get(rank.saturating_sub(1)).copied()
    }

    /// Answers that the asker gave to itself: none is expected.
    pub(super) fn answered_by_the_asker(&self) -> usize {
        self.answered.iter().filter(|(peer, _, _)| *peer == self.asker).count()
    }
}

/// Asks about every held-out record of a completed job, one after the other, from the first living node.
/// A job whose file has no `[evaluation]` is not asked about.
pub(super) async fn held_out(
    mesh: &Mesh,
    detail: &JobDetail,
    evaluation: Option<&Evaluation>,
    view: &View,
) -> Result<Answers, Error> {
    let asker = mesh.observer()?;
    let mut answers = Answers { asker: asker.peer_id.clone(), ..Answers::default() };
    let (Some(evaluation), Some(held_out), Some(_)) = (evaluation, detail.job.held_out_cid, detail.job.result_cid)
    else {
        return Ok(answers);
    };
    let client = asker.client()?;
    // Whoever submitted a job can always open its sealed data.
    let open = detail.job.data_key.is_some();
    let reader = if open { mesh.submitter() } else { asker };
    let records = records(reader, held_out, open, evaluation).await?;
    view.say(&format!("{} asks the mesh about {} held-out records", asker.label(), records.len()));
    for (input, label) in records {
        match client.infer(&Infer { job: Some(detail.job.id), model: None, input, via: None }).await {
            Ok(answer) => {
                let right = prediction(&answer.result).is_some_and(|found| same(found, &label));
                answers.answered.push((answer.node, right, answer.latency_ms));
            }
            Err(error) => {
                answers.failed += 1;
                answers.reason = Some(error.to_string());
            }
        }
    }
    Ok(answers)
}

/// Questions with their right answers, from the held-out part of the data set.
async fn records(
    reader: &NodeProcess,
    held_out: ContentId,
    open: bool,
    evaluation: &Evaluation,
) -> Result<Vec<(Value, Value)>, Error> {
    let near = reader.data_dir();
    let failed = |source| Error::File { path: near.to_owned(), source };
    let directory = tempfile::Builder::new().prefix("held-out-").tempdir_in(near).map_err(failed)?;
    let to = directory.path().join("data");
    reader.client()?.shard_get(&ShardGet { open, ..ShardGet::to(held_out, to.clone()) }).await?;
    let mut records = Vec::new();
    for entry in std::fs::read_dir(&to).map_err(failed)? {
        let text = std::fs::read_to_string(entry.map_err(failed)?.path()).map_err(failed)?;
        for line in text.lines().skip(usize::from(evaluation.header)) {
            records.push(record(line, evaluation)?);
        }
    }
    Ok(records)
}

/// One line of comma-separated numbers as a question and its right answer.
fn record(line: &str, evaluation: &Evaluation) -> Result<(Value, Value), Error> {
    let number = |cell: &str| serde_json::from_str::<serde_json::Number>(cell.trim()).map(Value::Number);
    let cells: Result<Vec<Value>, _> = line.split(',').map(number).collect();
    let mut cells =
        cells.map_err(|_| Error::JobFailed(format!("a held-out record is no line of numbers: `{line}`")))?;
    if cells.len() <= evaluation.label_column {
        return Err(Error::JobFailed(format!("a held-out record has no column {}: `{line}`", evaluation.label_column)));
    }
    let label = cells.remove(evaluation.label_column);
    let input = match &evaluation.input {
        Some(name) => serde_json::json!({ name: cells }),
        None => Value::Array(cells),
    };
    Ok((input, label))
}

/// The answer inside a result: the result itself, its only item, or its `label`, `prediction` or `class`.
fn prediction(result: &Value) -> Option<&Value> {
    match result {
        Value::Object(fields) => ["label", "prediction", "class", "labels", "predictions"]
            .iter()
            .find_map(|name| prediction(fields.get(*name)?)),
        Value::Array(items) => items.first().filter(|_| items.len() == 1).and_then(prediction),
        Value::Null => None,
        value => Some(value),
    }
}

/// 7 and 7.0 are the same label.
fn same(found: &Value, label: &Value) -> bool {
    found == label || found.as_f64().is_some_and(|found| Some(found) == label.as_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_becomes_a_question_and_its_label() {
        let evaluation = Evaluation { label_column: 2, input: Some("pixels".into()), header: false };
        assert_eq!(record("1,2.5,7", &evaluation).unwrap(), (json!({"pixels": [1, 2.5]}), json!(7)));
        assert!(record("1,2", &evaluation).is_err());
        assert!(record("1,x,7", &evaluation).is_err());
    }

    #[test]
    fn an_answer_is_found_in_every_usual_shape() {
        for result in [json!(7), json!(7.0), json!([7]), json!({"label": 7}), json!({"predictions": [7]})] {
            assert!(prediction(&result).is_some_and(|found| same(found, &json!(7))), "{result}");
        }
        for result in [json!(null), json!([7, 8]), json!({"other": 7}), json!("7")] {
            assert!(!prediction(&result).is_some_and(|found| same(found, &json!(7))), "{result}");
        }
    }

    #[test]
    fn accuracy_counts_unanswered_questions_as_wrong_and_latency_is_by_nearest_rank() {
        let answered = (1..=99).map(|latency| ("b".to_owned(), true, f64::from(latency))).collect();
        let answers = Answers { asker: "a".into(), answered, failed: 1, reason: None };
        assert_eq!(answers.accuracy(), Some(0.99));
        assert_eq!((answers.latency(0.5), answers.latency(0.99)), (Some(50.0), Some(99.0)));
        assert_eq!(Answers::default().accuracy(), None);
    }
}
