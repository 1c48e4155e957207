//! Why a pod does not run, from its status alone, and why there is none, from the status of its Deployment.

use k8s_openapi::api::{
    apps::v1::DeploymentStatus,
    core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus},
};

use crate::foreign::cut;

/// Length of the end of a container's or kubelet's message that is reported, in characters.
const MESSAGE_LENGTH: usize = 400;

/// The first reason why a pod does not run: it cannot be scheduled, an image cannot be pulled, or a container exited or
/// cannot start. The message stays the same as long as the reason does.
pub fn pod_failure(status: &PodStatus) -> Option<String> {
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .map(|condition| {
            let message = condition.message.as_deref().unwrap_or_default();
            format!("the pod cannot be scheduled: {}", shortened(message))
        });
    let mut containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    unscheduled.or_else(|| containers.find_map(of_container))
}

/// Why the cluster refuses to create the pod of a Deployment, such as a quota, a limit range, an admission webhook or a policy: in its words.
///
/// A Deployment that makes no progress is none of this: its pod exists, and has reasons of its own.
pub fn pod_refusal(status: &DeploymentStatus) -> Option<String> {
    let refused = status.conditions.iter().flatten().find(|condition| {
        let Some(reason) = &condition.reason else { return false };
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("ReplicaFailure", "True") => true,
            ("Progressing", "False") => reason == "ReplicaSetCreateError",
            _ => false,
        }
    })?;
    Some(shortened(refused.message.as_deref().unwrap_or_default()))
}

fn of_container(container: &ContainerStatus) -> Option<String> {
    let ContainerStatus { name, image, .. } = container;
    let state = container.state.as_ref()?;
    if let Some(terminated) = &state.terminated {
        return of_exit(name, terminated);
    }
    let waiting = state.waiting.as_ref()?;
    let message = waiting.message.as_deref().unwrap_or_default();
    match waiting.reason.as_deref()? {
        // The container is about to start.
        "ContainerCreating" | "PodInitializing" => None,
        "CrashLoopBackOff" => of_exit(name, container.last_state.as_ref()?.terminated.as_ref()?),
        // Kubelet alternates between the message with and without these first words.
        "ErrImagePull" | "ImagePullBackOff" => {
            let message = match message.strip_prefix("Back-off pulling image ") {
                Some(rest) => rest.split_once(": ").map_or("", |(_, why)| why),
                None => message,
            };
            let why = message.strip_prefix("ErrImagePull: ").unwrap_or(message);
            Some(format!(
                "image {image} of container {name} cannot be pulled{}",
                after(why)
            ))
        }
        reason => Some(format!("container {name} cannot start ({reason}){}", after(message))),
    }
}

fn of_exit(name: &str, terminated: &ContainerStateTerminated) -> Option<String> {
    if terminated.exit_code == 0 && terminated.reason.as_deref().is_none_or(|reason| reason == "Completed") {
        return None;
    }
    let how = match (terminated.reason.as_deref(), terminated.signal) {
        (Some("OOMKilled"), _) => "was killed because it used more memory than its limit".to_owned(),
        (_, Some(signal)) => format!("was terminated by signal {signal}"),
        _ => format!("exited with code {}", terminated.exit_code),
    };
    Some(format!(
        "container {name} {how}{}",
        after(terminated.message.as_deref().unwrap_or_default())
    ))
}

fn after(message: &str) -> String {
    let message = shortened(message);
    match message.is_empty() {
        true => message,
        false => format!(": {message}"),
    }
}

/// The message on one line; only its end if it is long, because the cause is at the end.
fn shortened(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The container wrote it: it may have anything in it.
    let line = cut(&lines.join("; "), usize::MAX);
    let long = line.chars().count().saturating_sub(MESSAGE_LENGTH);
    if long == 0 {
        return line;
    }
    let end: String = line.chars().skip(long).collect();
    format!("… {}", end.trim_start())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(status: Value) -> Option<String> {
        pod_failure(&serde_json::from_value(status).unwrap())
    }

    fn container(name: &str, state: Value) -> Value {
        json!({"name": name, "image": "example.com/nco:8", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    }

    #[test]
    fn a_pod_that_starts_or_runs_has_not_failed() {
        assert_eq!(said(json!({})), None);
        assert_eq!(
            said(json!({
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False", "message": "x"}],
                "initContainerStatuses": [
                    container("tools", json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
                    container("proxy", json!({"running": {}})),
                ],
                "containerStatuses": [container("gate", json!({"waiting": {"reason": "PodInitializing"}}))],
            })),
            None
        );
    }

    #[test]
    fn a_pod_that_cannot_be_scheduled() {
        let conditions = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]);
        assert_eq!(
            said(json!({"conditions": conditions})).as_deref(),
            Some("the pod cannot be scheduled: 0/3 nodes are available")
        );
    }

    #[test]
    fn an_image_that_cannot_be_pulled_has_one_message_in_both_of_kubelets_states() {
        let why = "failed to pull and unpack image: not found";
        let of = |reason: &str, message: String| {
            said(
                json!({"initContainerStatuses": [container("copy", json!({"waiting": {"reason": reason, "message": message}}))]}),
            )
        };
        let expected = format!("image example.com/nco:8 of container copy cannot be pulled: {why}");
        assert_eq!(of("ErrImagePull", why.to_owned()).as_ref(), Some(&expected));
        let backing_off = format!("Back-off pulling image \"example.com/nco:8\": ErrImagePull: {why}");
        assert_eq!(of("ImagePullBackOff", backing_off).as_ref(), Some(&expected));
        assert_eq!(
            of(
                "ImagePullBackOff",
                "Back-off pulling image \"example.com/nco:8\"".to_owned()
            )
            .as_deref(),
            Some("image example.com/nco:8 of container copy cannot be pulled")
        );
    }

    #[test]
    fn a_container_that_exited_is_reported_with_its_last_lines() {
        let ended = json!({"exitCode": 1, "reason": "Error", "message": "Error: AuthPassword has a backslash\n\nuse another\n"});
        let expected =
            Some("container files exited with code 1: Error: AuthPassword has a backslash; use another".to_owned());
        assert_eq!(
            said(json!({"initContainerStatuses": [container("files", json!({"terminated": ended}))]})),
            expected
        );
        let mut waiting = container(
            "files",
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}),
        );
        waiting["lastState"] = json!({"terminated": ended});
        assert_eq!(said(json!({"initContainerStatuses": [waiting]})), expected);
    }

    #[test]
    fn a_container_that_was_killed() {
        let of = |ended: Value| said(json!({"containerStatuses": [container("gate", json!({"terminated": ended}))]}));
        assert_eq!(
            of(json!({"exitCode": 137, "reason": "OOMKilled"})).as_deref(),
            Some("container gate was killed because it used more memory than its limit")
        );
        assert_eq!(
            of(json!({"exitCode": 0, "signal": 9, "reason": "Error"})).as_deref(),
            Some("container gate was terminated by signal 9")
        );
    }

    #[test]
    fn a_container_that_cannot_start() {
        let state = json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"x\" not found"}});
        assert_eq!(
            said(json!({"containerStatuses": [container("gate", state)]})).as_deref(),
            Some("container gate cannot start (CreateContainerConfigError): secret \"x\" not found")
        );
    }

    #[test]
    fn a_pod_that_the_cluster_refuses_is_reported_in_its_words() {
        let of = |type_: &str, status: &str, reason: &str| {
            let conditions = json!([
                {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "x"},
                {"type": type_, "status": status, "reason": reason, "message": "pods is forbidden: exceeded quota: q"},
            ]);
            pod_refusal(&serde_json::from_value(json!({"conditions": conditions})).unwrap())
        };
        let words = Some("pods is forbidden: exceeded quota: q".to_owned());
        assert_eq!(of("ReplicaFailure", "True", "FailedCreate"), words);
        assert_eq!(of("Progressing", "False", "ReplicaSetCreateError"), words);
        assert_eq!(of("ReplicaFailure", "False", "FailedCreate"), None);
        // Its pod is there, and not ready while its ObjectServer is away.
        assert_eq!(of("Progressing", "False", "ProgressDeadlineExceeded"), None);
        assert_eq!(pod_refusal(&DeploymentStatus::default()), None);
    }

    #[test]
    fn a_long_message_is_cut_at_its_beginning() {
        let message = format!("{}the cause", "é".repeat(1000));
        let words = said(json!({"containerStatuses": [container("gate", json!({"terminated": {"exitCode": 1, "message": message}}))]})).unwrap();
        assert!(words.ends_with("the cause") && words.chars().count() < 500, "{words}");
    }
}
