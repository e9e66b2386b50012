//! What holds whatever happens.

use proptest::prelude::*;

use super::world::{Step, World};

fn usual() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => any::<bool>().prop_map(|server| Step::Begin { server }),
        1 => any::<usize>().prop_map(Step::End),
        6 => Just(Step::Perform),
        1 => Just(Step::Refuse),
        4 => any::<usize>().prop_map(Step::Establish),
        2 => any::<usize>().prop_map(Step::Reject),
        1 => any::<usize>().prop_map(Step::Kill),
        1 => any::<usize>().prop_map(Step::PeerJoins),
        6 => Just(Step::Deliver),
        2 => (0..3000_u64).prop_map(Step::Wait),
    ]
}

fn unusual() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => usual(),
        1 => Just(Step::DeliverTwice),
        1 => Just(Step::DeliverLater),
        1 => Just(Step::Lose),
    ]
}

proptest! {
    /// While every event comes, once and in order, the book needs no list, and never asks for too much.
    #[test]
    fn in_order(steps in prop::collection::vec(usual(), 0..200), wanted in 1..6_u16, most in 1..8_u16) {
        let mut world = World::new(wanted, most);
        world.servers_join = true;
        for step in steps {
            world.step(step);
            world.check_requests();
            world.check_truth();
        }
        world.deliver_all();
        world.check_equal();
        world.settle();
        world.check_equal();
        world.check_settled();
    }

    /// Whatever was lost, doubled or came too late: a list puts it right.
    #[test]
    fn in_disorder(steps in prop::collection::vec(unusual(), 0..200), wanted in 1..6_u16, most in 1..8_u16) {
        let mut world = World::new(wanted, most);
        for step in steps {
            world.step(step);
            world.check_requests();
        }
        world.deliver_all();
        world.resync();
        world.check_equal();
        world.settle();
        world.resync();
        world.settle();
        world.check_equal();
        world.check_settled();
    }

    /// The same when the path manager is started anew, which knows nothing.
    #[test]
    fn after_a_restart(steps in prop::collection::vec(usual(), 0..200), wanted in 1..6_u16) {
        let mut world = World::new(wanted, 8);
        steps.into_iter().for_each(|step| world.step(step));
        world.restart();
        world.check_equal();
        world.check_truth();
        world.settle();
        world.check_equal();
        world.check_settled();
    }
}
