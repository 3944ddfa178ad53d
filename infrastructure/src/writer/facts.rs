//! What a batch needs to know of the database: the statements that read it, and the rows that answer them.

use std::collections::BTreeMap;

use chat_domain::{
    facts::{Conversation, Earlier, Facts, MessagePlace, Needs, Participant},
    ids::{CommandKey, ConversationId, ConversationNumber, UserId},
};
use sea_orm::{DbErr, QueryResult};

use crate::{flavor::Flavor, sql};

/// Reads what the batch needs. Each row begins with a letter for what it is.
pub(super) fn read(flavor: Flavor, needs: &Needs, keys: &[(&UserId, &CommandKey)]) -> Vec<String> {
    let mut statements = Vec::new();
    if !keys.is_empty() {
        let mut by_actor: BTreeMap<&UserId, Vec<&CommandKey>> = BTreeMap::new();
        for (actor, key) in keys {
            by_actor.entry(actor).or_default().push(key);
        }
        let mut terms = String::new();
        for (actor, keys) in by_actor {
            let separator = if terms.is_empty() { "" } else { " OR " };
            let keys = sql::list(keys.iter().map(|key| sql::text(flavor, key.as_str())));
            terms += &format!(
                "{separator}(actor_id = {} AND command_key IN ({keys}))",
                sql::user(actor)
            );
        }
        statements.push(format!(
            "SELECT 'k' AS fact, position, actor_id, command_key, command_hash FROM outbox WHERE {terms}"
        ));
    }
    // From what is named to who takes part in it: the other way costs what somebody's conversations are.
    let join = flavor.ordered_join();
    let members = sql::list(needs.participants.iter().map(sql::user));
    if !needs.conversations.is_empty() {
        let names = sql::list(needs.conversations.iter().map(|(id, _)| sql::conversation(id)));
        statements.push(format!(
            "SELECT 'c' AS fact, {CONVERSATION} FROM conversations c {join} participants p \
             ON p.conversation_id = c.id WHERE c.name IN ({names}) AND p.user_id IN ({members})"
        ));
    }
    if !needs.messages.is_empty() {
        let ids = sql::list(&needs.messages);
        statements.push(format!(
            "SELECT 'm' AS fact, m._id AS message_id, m.seq AS message_seq, {CONVERSATION} FROM messages m \
             {join} conversations c ON c.id = m.conversation_id {join} participants p ON p.conversation_id = c.id \
             WHERE m._id IN ({ids}) AND p.user_id IN ({members})"
        ));
    }
    statements
}

const CONVERSATION: &str = "c.id, c.name, c.seq, c.last_position, c.last_message_id, p.user_id, p.from_position, \
     p.to_position, p.received_seq, p.read_seq";

pub(super) fn add(facts: &mut Facts, row: &QueryResult) -> Result<(), DbErr> {
    match row.try_get::<String>("", "fact")?.as_str() {
        "h" => {}
        "k" => {
            let actor = user(row, "actor_id")?;
            let key = CommandKey::stored(&row.try_get::<String>("", "command_key")?).map_err(custom)?;
            let hash: Vec<u8> = row.try_get("", "command_hash")?;
            let hash = hash
                .try_into()
                .map_err(|_| DbErr::Custom("a hash that is not 32 bytes".into()))?;
            let position = row.try_get("", "position")?;
            facts.keys.insert((actor, key), Earlier { position, hash });
        }
        kind => {
            let id = conversation(facts, row)?;
            if kind == "m" {
                let place = MessagePlace {
                    conversation_id: id,
                    seq: row.try_get("", "message_seq")?,
                };
                facts.messages.insert(row.try_get("", "message_id")?, place);
            }
        }
    }
    Ok(())
}

fn conversation(facts: &mut Facts, row: &QueryResult) -> Result<ConversationId, DbErr> {
    let id = ConversationId::parse(&row.try_get::<String>("", "name")?).map_err(custom)?;
    facts.conversations.insert(
        id.clone(),
        Conversation {
            number: ConversationNumber(row.try_get("", "id")?),
            seq: row.try_get("", "seq")?,
            last_position: row.try_get("", "last_position")?,
            last_message_id: row.try_get("", "last_message_id")?,
        },
    );
    facts.participants.insert(
        (id.clone(), user(row, "user_id")?),
        Participant {
            from_position: row.try_get("", "from_position")?,
            to_position: row.try_get("", "to_position")?,
            received_seq: row.try_get("", "received_seq")?,
            read_seq: row.try_get("", "read_seq")?,
        },
    );
    Ok(id)
}

fn user(row: &QueryResult, column: &str) -> Result<UserId, DbErr> {
    UserId::parse(&row.try_get::<String>("", column)?).map_err(custom)
}

fn custom(error: impl std::error::Error) -> DbErr {
    DbErr::Custom(error.to_string())
}
