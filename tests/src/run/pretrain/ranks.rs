//! Several processes train one model: equal to one process alone, stopped, killed, given different
//! runs.

use std::net::{Ipv4Addr, TcpListener};

use super::*;

/// Two ranks, started by the launcher.
const TWO: [&str; 2] = ["--ranks", "2"];

/// The losses of the steps and of the evaluations.
fn losses(run: &TestRun) -> Vec<f64> {
    let values = run.curves().into_iter().map(|line| {
        let point: serde_json::Value = serde_json::from_str(&line).unwrap();
        let value = point.get("train/loss").or(point.get("eval/loss"));
        value.and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("no loss in {line}"))
    });
    values.collect()
}

/// The run of two ranks never interrupted.
fn two_ranks() -> &'static TestRun {
    static TWO_RANKS: OnceLock<TestRun> = OnceLock::new();
    TWO_RANKS.get_or_init(|| {
        let run = TestRun::new();
        let output = run.run(&TWO);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        run
    })
}

fn assert_same_as_two_ranks(run: &TestRun, what: &str) {
    assert_eq!(run.curves(), two_ranks().curves(), "{what}");
    for name in ["model.safetensors", OPTIMIZER] {
        assert!(run.final_bytes(name) == two_ranks().final_bytes(name), "{name} differs: {what}");
    }
}

/// Starts the ranks as another launcher would; `args` are those of each.
fn start(run: &TestRun, args: [&[&str]; 2]) -> [Child; 2] {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    [0, 1].map(|rank: usize| {
        let mut command = run.command(args[rank]);
        command.env("WORLD_SIZE", "2").env("RANK", rank.to_string());
        command.env("LOCAL_RANK", rank.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    })
}

fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn ranks_train_what_one_process_does() {
    let four = TestRun::new();
    let mut command =
        four.command(&["--ranks", "4", "--set", "train.micro_batch_windows=2", "--json"]);
    // A surrounding torchrun's variables are not meant for these ranks. There may be several
    // interface names, or none.
    command.env("WORLD_SIZE", "1").env("TORCHELASTIC_USE_AGENT_STORE", "True");
    let output = command.env("GLOO_SOCKET_IFNAME", "lo,lo").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("4 ranks have met at 127.0.0.1:"), "{stderr}");
    // One, not four.
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["phases"][1]["steps"], STEP_COUNT - SWITCH_STEP);
    let alone = losses(reference());
    for run in [two_ranks(), &four] {
        let together = losses(run);
        assert_eq!(together.len(), alone.len());
        for (step, (together, alone)) in together.iter().zip(&alone).enumerate() {
            assert!((together - alone).abs() < 1e-4, "{step}: {together}, alone {alone}");
        }
    }
    let text = fs::read_to_string(two_ranks().output().join("metrics.jsonl")).unwrap();
    for line in text.lines().filter(|line| line.contains("train/loss")) {
        let point: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(point["time/communication_ms"].as_f64().unwrap() > 0.0, "{point}");
    }
    let alone = fs::read_to_string(reference().output().join("metrics.jsonl")).unwrap();
    assert!(!alone.contains("communication"), "one process has nobody to talk to");
}

#[test]
fn ranks_that_are_stopped_go_on_bitwise_as_if_they_had_not_been() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let run = TestRun::new();
        // An evaluation is due here.
        assert_eq!(run.signal_with(&TWO, 5, signal), Some(75));
        let output = run.command(&TWO).env("GLOO_SOCKET_IFNAME", "").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_same_as_two_ranks(&run, &format!("signal {signal}"));
    }
}

/// A launcher that has reached step 5, the lines printed by it and its ranks, and the ranks.
fn launched(run: &TestRun) -> (Child, impl Iterator<Item = String> + use<>, Vec<libc::pid_t>) {
    let mut launcher = run.command(&TWO);
    let mut launcher = launcher.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(launcher.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("step 5/")), "the run ended before");
    let id = launcher.id();
    let ranks = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let ranks: Vec<libc::pid_t> = ranks.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ranks.len(), 2);
    (launcher, lines, ranks)
}

/// As systemd and Slurm do: a rank then gets the signal twice, the second time from the launcher.
#[test]
fn a_signal_to_launcher_and_ranks_at_once_is_one() {
    let run = TestRun::new();
    let (mut launcher, lines, ranks) = launched(&run);
    for rank in ranks {
        send_to(rank, libc::SIGTERM);
    }
    send(&launcher, libc::SIGTERM);
    lines.for_each(drop);
    assert_eq!(launcher.wait().unwrap().code(), Some(75));
    let output = run.run(&TWO);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same_as_two_ranks(&run, "signal to all");
}

/// The signal sent to the others by the launcher's end or a rank's failure, however late it comes.
#[test]
fn a_signal_that_only_asks_is_no_second_one() {
    let run = TestRun::new();
    let (mut launcher, lines, ranks) = launched(&run);
    // So the other one waits.
    send_to(ranks[1], libc::SIGSTOP);
    send(&launcher, libc::SIGTERM);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    send_to(ranks[0], libc::SIGUSR1);
    send_to(ranks[1], libc::SIGCONT);
    let said: Vec<String> = lines.collect();
    assert_eq!(launcher.wait().unwrap().code(), Some(75), "{said:?}");
}

/// The launcher's own exit code shows it, though others fail first.
#[test]
fn a_rank_that_is_killed_is_the_launchers_exit_code() {
    let run = TestRun::new();
    let (mut launcher, lines, ranks) = launched(&run);
    send_to(ranks[1], libc::SIGKILL);
    let said: Vec<String> = lines.collect();
    assert_eq!(launcher.wait().unwrap().code(), Some(137), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("rank 1 ended by signal: 9")), "{said:?}");
}

#[test]
fn a_killed_launcher_takes_its_ranks_along() {
    let run = TestRun::new();
    assert_eq!(run.signal_with(&TWO, 3, libc::SIGKILL), None);
    // The ranks finish their step, save and free the folder.
    let mut output = run.run(&TWO);
    for _ in 0..100 {
        if output.status.success() {
            break;
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("is in use by another run"), "{stderr}");
        std::thread::sleep(std::time::Duration::from_millis(50));
        output = run.run(&TWO);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same_as_two_ranks(&run, "killed launcher");
}

#[test]
fn a_killed_rank_ends_the_others_and_the_run_goes_on() {
    for killed in [0, 1] {
        let run = TestRun::new();
        let mut ranks = start(&run, [&[], &[]]);
        let mut lines = BufReader::new(ranks[0].stderr.take().unwrap()).lines();
        let met = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("step 9/"));
        assert!(met.is_some(), "the run ended before");
        ranks[killed].kill().unwrap();
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        let [first, second] = ranks.map(end);
        let (code, said) = if killed == 0 { second } else { (first.0, said.join("\n")) };
        assert_eq!(code, Some(1), "{said}");
        let other = 1 - killed;
        assert!(said.contains(&format!("rank {other}: error")), "{said}");
        assert!(said.contains(&format!("rank {other} of 2 lost the others")), "{said}");
        let output = run.run(&TWO);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_same_as_two_ranks(&run, &format!("killed rank {killed}"));
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let run = TestRun::new();
    assert_eq!(run.signal_with(&TWO, 13, libc::SIGTERM), Some(75));
    let output = run.run(&[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("ranks: 2 → 1"), "{stderr}");
    for (together, alone) in losses(&run).iter().zip(losses(reference())) {
        assert!((together - alone).abs() < 1e-4, "{together}, alone {alone}");
    }
}

#[test]
fn ranks_of_different_runs_are_refused_with_what_differs() {
    // In the last ones ranks would wait for each other in vain.
    for (set, said) in [
        ("train.init_seed=3", "train.init_seed: 1 → 3"),
        ("train.dtype=bf16", "train.dtype: \"fp32\" → \"bf16\""),
        ("train.checkpoint_every_steps=3", "train.checkpoint_every_steps: 4 → 3"),
        ("train.eval_every_steps=3", "train.eval_every_steps: 5 → 3"),
    ] {
        let run = TestRun::new();
        let [first, second] = start(&run, [&[], &["--set", set]]).map(end);
        assert_eq!(second.0, Some(4), "{}", second.1);
        assert!(second.1.contains(said), "{}", second.1);
        assert_eq!(first.0, Some(1), "{}", first.1);
        assert!(first.1.contains("another rank cannot begin"), "{}", first.1);
        assert!(!run.output().join("metrics.jsonl").exists());
    }
}

#[test]
fn ranks_resume_where_one_process_would() {
    let run = TestRun::new();
    assert_eq!(run.signal_with(&TWO, 13, libc::SIGTERM), Some(75));
    let latest = run.output().join("latest").canonicalize().unwrap();
    let mut here = run.command(&[&TWO[..], &["--resume", "."]].concat());
    let output = here.current_dir(&latest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same_as_two_ranks(&run, "--resume .");
    let again = [&TWO[..], &["--resume", "never"]].concat();
    let output = run.run(&again);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("rank 0: error: ") && stderr.contains("already holds"), "{stderr}");
}

#[test]
fn a_process_that_never_meets_the_others_ends_by_a_signal() {
    let run = TestRun::new();
    let [mut first, mut second] = start(&run, [&[], &[]]);
    // Before it arrives.
    second.kill().unwrap();
    second.wait().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    send(&first, libc::SIGTERM);
    assert_eq!(first.wait().unwrap().code(), Some(75));
}

#[test]
fn a_number_that_two_processes_have_is_an_error() {
    let run = TestRun::new();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let ranks = [0, 1, 1].map(|rank| {
        let mut command = run.command(&[]);
        command.env("WORLD_SIZE", "3").env("RANK", rank.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let [mut first, one, other] = ranks;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let [mut one, mut other] = [one, other].map(Some);
    let mut said = None;
    while said.is_none() && std::time::Instant::now() < deadline {
        for child in [&mut one, &mut other] {
            if child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
                said = Some(end(child.take().unwrap()));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for child in [Some(&mut first), one.as_mut(), other.as_mut()].into_iter().flatten() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, said) = said.expect("one of the two ends");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is another rank 1"), "{said}");
}

#[test]
fn ranks_diverge_together() {
    let run = TestRun::new();
    let blow_up = [&TWO[..], &["--set", "phases.1.schedule.peak=1e30"]].concat();
    let output = run.run(&blow_up);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    for expected in ["rank 0: error: ", "diverged: loss", "document "] {
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert!(!stderr.contains("rank 1: error: "), "once is enough: {stderr}");
    assert_eq!(divergence(&run)["reason"], "nonfinite");
}

#[test]
fn what_ranks_cannot_do_is_refused() {
    let run = TestRun::new();
    check_refusal(&run, &["--ranks", "3"], 2, &["windows times ranks must divide", "on 3 ranks"]);
    check_refusal(&run, &["--ranks", "2", "--set", "train.device=\"cuda:0\""], 2, &["rank 0"]);
    // The failing rank reports it first, and its exit code becomes the launcher's.
    fs::create_dir(run.output()).unwrap();
    fs::write(run.output().join("notes.txt"), "no run").unwrap();
    for _ in 0..4 {
        check_refusal(
            &run,
            &["--ranks", "4", "--set", "train.micro_batch_windows=2"],
            2,
            &["notes.txt"],
        );
    }
    check_refusal(&run, &["--ranks", "2", "--set", "train.nonsense=1"], 2, &["nonsense"]);
    let mut nested = run.command(&TWO);
    let nested = nested.env("WORLD_SIZE", "2").env("RANK", "0").env("MASTER_ADDR", "x").output();
    let nested = nested.unwrap();
    assert_eq!(nested.status.code(), Some(2));
    assert!(String::from_utf8(nested.stderr).unwrap().contains("leave out --ranks"));
    let mut half = run.command(&[]);
    let half = half.env("WORLD_SIZE", "2").output().unwrap();
    assert_eq!(half.status.code(), Some(2));
    assert!(String::from_utf8(half.stderr).unwrap().contains("RANK is not"));
}

/// Each of them, at once, and with both numbers.
#[test]
fn ranks_that_count_another_number_of_ranks_are_named() {
    let run = TestRun::new();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let started = std::time::Instant::now();
    let ranks = [(0, 2), (1, 3)].map(|(rank, world_size)| {
        let mut command = run.command(&[]);
        command.env("WORLD_SIZE", world_size.to_string()).env("RANK", rank.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for (code, said) in ranks.map(end) {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("was started as one of"), "{said}");
        assert!(said.contains("one of 3") && said.contains("one of 2"), "{said}");
    }
    assert!(started.elapsed().as_secs() < 30);
}

/// A process that is one of several unawares reads so, and by which variables.
#[test]
fn a_rank_that_waits_names_the_missing_ones_and_the_variables() {
    let run = TestRun::new();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut command = run.command(&["--meet-timeout", "3"]);
    command.env("WORLD_SIZE", "4").env("RANK", "0");
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        &format!("notice: waiting at 127.0.0.1:{port} for all of 4 ranks"),
        "(by RANK and WORLD_SIZE)",
        "these did not arrive within 3 s: 1, 2, 3",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
