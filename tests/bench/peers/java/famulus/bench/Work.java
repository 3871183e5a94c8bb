package famulus.bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** What the peers in Java share: transactions, the ten rules, alerts, and a user's last ten minutes as bytes. */
final class Work {
    static final long WINDOW_MS = 600_000;
    /** Transactions are up to 5 s out of order; a late one still wants its whole window. */
    static final long KEEP_MS = WINDOW_MS + 10_000;
    static final int ENTRY = Long.BYTES + Double.BYTES;
    private static final JsonFactory JSON = new JsonFactory();

    private Work() {}

    record Transaction(String id, String user, double amount, long timestamp, String merchant, String country) {}

    interface Condition {
        boolean fires(Transaction tx, int inWindow);
    }

    record Rule(String id, String description, String riskLevel, Condition when) {}

    static final List<Rule> RULES = rules();

    private static List<Rule> rules() {
        List<Rule> rules = new ArrayList<>();
        rules.add(new Rule("HIGH_VALUE", "Transaction amount > $10,000", "HIGH", (tx, n) -> tx.amount > 10_000));
        rules.add(new Rule("VELOCITY", "More than 5 transactions in 10 minutes", "MEDIUM", (tx, n) -> n > 5));
        rules.add(new Rule("COUNTRY_KP", "Country KP", "HIGH", (tx, n) -> "KP".equals(tx.country)));
        rules.add(new Rule("MERCHANT_666", "Merchant m666", "HIGH", (tx, n) -> "m666".equals(tx.merchant)));
        for (int limit = 11_000; limit < 17_000; limit += 1_000) {
            double over = limit;
            rules.add(new Rule("OVER_" + limit, "Over " + limit, "HIGH", (tx, n) -> tx.amount > over));
        }
        return rules;
    }

    /** Adds transactions to histories; it holds what came of the last one. */
    static final class History {
        /** Time and amount of each transaction that a later one may want. */
        byte[] kept;
        /** How many of them lie in the ten minutes up to the transaction. */
        int inWindow;

        void add(byte[] old, Transaction tx) {
            int length = old == null ? 0 : old.length;
            long newest = tx.timestamp;
            ByteBuffer from = length == 0 ? null : ByteBuffer.wrap(old);
            for (int at = 0; at < length; at += ENTRY) {
                newest = Math.max(newest, from.getLong(at));
            }
            ByteBuffer to = ByteBuffer.allocate(length + ENTRY);
            inWindow = 1;
            for (int at = 0; at < length; at += ENTRY) {
                long time = from.getLong(at);
                if (time > newest - KEEP_MS) {
                    to.putLong(time).putDouble(from.getDouble(at + Long.BYTES));
                    if (time > tx.timestamp - WINDOW_MS && time <= tx.timestamp) {
                        inWindow++;
                    }
                }
            }
            to.putLong(tx.timestamp).putDouble(tx.amount);
            kept = to.hasRemaining() ? Arrays.copyOf(to.array(), to.position()) : to.array();
        }
    }

    static Transaction parse(byte[] value) throws IOException {
        String id = null, user = null, merchant = null, country = null;
        double amount = 0;
        long timestamp = 0;
        try (JsonParser in = JSON.createParser(value)) {
            in.nextToken();
            while (in.nextToken() != JsonToken.END_OBJECT) {
                String name = in.currentName();
                in.nextToken();
                switch (name) {
                    case "transaction_id" -> id = in.getText();
                    case "user_id" -> user = in.getText();
                    case "amount" -> amount = in.getDoubleValue();
                    case "timestamp" -> timestamp = in.getLongValue();
                    case "merchant" -> merchant = in.getText();
                    case "country" -> country = in.getText();
                    default -> in.skipChildren();
                }
            }
        }
        return new Transaction(id, user, amount, timestamp, merchant, country);
    }

    static byte[] alert(Rule rule, Transaction tx) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(256);
        try (JsonGenerator out = JSON.createGenerator(bytes)) {
            out.writeStartObject();
            out.writeStringField("user_id", tx.user);
            out.writeStringField("rule_id", rule.id);
            out.writeStringField("risk_level", rule.riskLevel);
            out.writeStringField("message", "Rule triggered: " + rule.description);
            out.writeNumberField("timestamp", tx.timestamp);
            out.writeStringField("transaction_id", tx.id);
            out.writeEndObject();
        }
        return bytes.toByteArray();
    }

    /** A variable of the environment; whoever starts a peer sets them all. */
    static String variable(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalArgumentException(name + " is not set");
        }
        return value;
    }
}
