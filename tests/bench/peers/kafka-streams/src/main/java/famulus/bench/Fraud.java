package famulus.bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** The standard work on Kafka Streams: each user's last ten minutes, ten rules, alerts.  Set by BENCH_ variables of the environment. */
public final class Fraud {
    static final long WINDOW_MS = 600_000;
    /** Transactions are up to 5 s out of order; a late one still wants its whole window. */
    static final long KEEP_MS = WINDOW_MS + 10_000;
    static final int ENTRY = Long.BYTES + Double.BYTES;

    record Transaction(String id, String user, double amount, long timestamp, String merchant, String country) {}

    interface Condition {
        boolean fires(Transaction tx, int inWindow);
    }

    record Rule(String id, String description, String riskLevel, Condition when) {}

    static List<Rule> rules() {
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

    static final class Judge implements Processor<String, byte[], String, byte[]> {
        private final JsonFactory json = new JsonFactory();
        private final List<Rule> rules = rules();
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> history;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            history = context.getStateStore("history");
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                Transaction tx = parse(record.value());
                int inWindow = remember(tx);
                for (Rule rule : rules) {
                    if (rule.when.fires(tx, inWindow)) {
                        context.forward(new Record<>(tx.user, alert(rule, tx), record.timestamp()));
                    }
                }
            } catch (IOException bad) {
                throw new UncheckedIOException(bad);
            }
        }

        /** Adds the transaction to its user's history; how many of it lie in the ten minutes up to the transaction. */
        private int remember(Transaction tx) {
            byte[] old = history.get(tx.user);
            int length = old == null ? 0 : old.length;
            long newest = tx.timestamp;
            ByteBuffer from = length == 0 ? null : ByteBuffer.wrap(old);
            for (int at = 0; at < length; at += ENTRY) {
                newest = Math.max(newest, from.getLong(at));
            }
            ByteBuffer to = ByteBuffer.allocate(length + ENTRY);
            int inWindow = 1;
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
            byte[] kept = to.array();
            history.put(tx.user, to.hasRemaining() ? java.util.Arrays.copyOf(kept, to.position()) : kept);
            return inWindow;
        }

        private Transaction parse(byte[] value) throws IOException {
            String id = null, user = null, merchant = null, country = null;
            double amount = 0;
            long timestamp = 0;
            try (JsonParser in = json.createParser(value)) {
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

        private byte[] alert(Rule rule, Transaction tx) throws IOException {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream(256);
            try (JsonGenerator out = json.createGenerator(bytes)) {
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
    }

    static Properties configuration(String store, boolean exactlyOnce) {
        Properties p = new Properties();
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, variable("BENCH_BOOTSTRAP"));
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, variable("BENCH_APP_ID"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, variable("BENCH_STATE_DIR"));
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        p.put(
            StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
            exactlyOnce ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Integer.parseInt(variable("BENCH_COMMIT_MS")));
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
        p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 8000);
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 8000);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 1 << 20);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), Integer.parseInt(variable("BENCH_LINGER_MS")));
        p.put(StreamsConfig.producerPrefix(ProducerConfig.MAX_REQUEST_SIZE_CONFIG), 4 << 20);
        return p;
    }

    static Topology topology(String store) {
        var supplier = store.equals("rocksdb")
            ? Stores.persistentKeyValueStore("history")
            : Stores.inMemoryKeyValueStore("history");
        Topology topology = new Topology();
        topology.addSource("transactions", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), variable("BENCH_INPUT"));
        topology.addProcessor("judge", Judge::new, "transactions");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(supplier, Serdes.String(), Serdes.ByteArray()).withCachingEnabled(), "judge");
        topology.addSink("alerts", variable("BENCH_ALERTS"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "judge");
        return topology;
    }

    static String variable(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalArgumentException(name + " is not set");
        }
        return value;
    }

    public static void main(String[] args) {
        String store = variable("BENCH_STORE");
        KafkaStreams streams =
            new KafkaStreams(topology(store), configuration(store, variable("BENCH_GUARANTEE").equals("exactly_once")));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
