//! What is done, and what is not, where nothing can be written down.

use super::*;

#[test]
fn without_room_to_write_nothing_is_taken_away_that_comes_anew() {
    let mut host = Model::new(host_of(1));
    let mut memory = Notebook::default();
    assert!(succeeded(&apply(&mut host, &mut memory, &wanted(&["wan*"]), Spirit::Whole)));
    let there = host.actual.clone();
    memory.is_full = true;
    for spirit in [Spirit::Whole, Spirit::Parts] {
        let outcome = apply(&mut host, &mut memory, &wanted(&["wan*=signal"]), spirit);
        assert!(outcome.changes.is_empty() && outcome.failures[0].error.contains("no room"), "{outcome:?}");
        assert_eq!(host.actual, there);
    }
    // All or nothing cannot be had, as what is wanted from then on could not be kept either.
    let nothing = MultipathConfig::default();
    assert!(!apply(&mut host, &mut memory, &nothing, Spirit::Whole).is_success());
    assert_eq!(host.actual, there);
    let outcome = apply(&mut host, &mut memory, &nothing, Spirit::Parts);
    assert!(host.actual.endpoints.is_empty() && outcome.failures[0].error.contains("no room"), "{outcome:?}");
    assert!(!memory.written.is_empty() && memory.owned.is_empty());
    // There is nothing left to do but that.
    memory.is_full = false;
    assert!(succeeded(&apply(&mut host, &mut memory, &nothing, Spirit::Parts)));
    assert!(memory.written.is_empty(), "{:?}", memory.written);
}

#[test]
fn without_room_to_write_no_path_goes_for_another_that_cannot_come() {
    let mut host = Model::new(host_of(2));
    let mut memory = Notebook::default();
    assert!(succeeded(&apply(&mut host, &mut memory, &wanted(&["wan01"]), Spirit::Whole)));
    memory.is_full = true;
    let outcome = apply(&mut host, &mut memory, &wanted(&["wan02"]), Spirit::Parts);
    assert!(!outcome.is_success(), "{outcome:?}");
    assert_eq!(interfaces(&host.actual), [1]);
}

#[test]
fn without_room_to_write_interfaces_are_switched_back_only() {
    let mut host = Model::new(host_of(2));
    let mut memory = Notebook::default();
    let switch = |index: u32, up| Change::Link { name: format!("wan{index:02}"), index, up };
    assert!(succeeded(&command(&mut host, &mut memory, switch(1, false))));
    memory.is_full = true;
    let outcome = command(&mut host, &mut memory, switch(2, false));
    assert!(outcome.changes.is_empty() && host.actual.links[1].is_enabled, "{outcome:?}");
    let outcome = command(&mut host, &mut memory, switch(1, true));
    assert!(!outcome.is_success() && host.actual.links[0].is_enabled, "{outcome:?}");
    assert!(memory.owned.is_empty() && !memory.written.is_empty());
}

proptest! {
    #[test]
    fn all_is_given_back_without_room_to_write(actual in hosts(), settings in settings(), ends in any::<bool>()) {
        let before = plain(actual.clone());
        let (mut host, mut memory) = (Model::new(actual), Notebook::default());
        apply(&mut host, &mut memory, &settings, Spirit::Parts);
        memory.is_full = true;
        if ends && host.actual.agent.is_some() {
            stop(&mut host, &mut memory, &settings.without_agent());
            prop_assert_eq!(host.actual.agent.as_ref(), Some(&Doings::default()));
            prop_assert!(host.actual.sysctl("net.mptcp.path_manager") != Some("userspace"));
        }
        let outcome = release(&mut host, &mut memory);
        prop_assert_eq!(plain(host.actual.clone()), before.clone());
        let needs_note = outcome.changes.iter().any(|change| !change.needs_agent());
        prop_assert!(!needs_note || !outcome.is_success(), "it is not told: {outcome:?}");
        prop_assert!(memory.owned.is_empty(), "{:?}", memory.owned);
        // Who reads what was written last finds that nothing of it is there any more.
        let mut next = memory.read();
        prop_assert!(succeeded(&release(&mut host, &mut next)));
        prop_assert_eq!(plain(host.actual), before);
        prop_assert!(next.owned.is_empty(), "{:?}", next.owned);
    }
}
